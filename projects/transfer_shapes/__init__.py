"""What a pretrained encoder is good for, on a CPU in a quarter of an hour.

* :mod:`shapes` makes labelled images, :mod:`files` writes them as data sets.
* :mod:`tasks` pretrains and learns from the labels, :mod:`report` shows what came out.
"""

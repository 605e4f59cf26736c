"""The parts of ``tools/demo_transfer.py``.

* :mod:`shapes` makes labelled images, :mod:`files` writes them as data sets.
* :mod:`tasks` pretrains and learns from the labels, :mod:`report` shows what came out.
"""

"""The parts of ``tools/small_scale.py``.

* :mod:`rows` says what is compared, :mod:`images` holds the data set in memory.
* :mod:`training` pretrains and fine-tunes, :mod:`judging` makes a row's figures.
* :mod:`results` keeps the records, :mod:`statistics` and :mod:`table` sum them up.
"""

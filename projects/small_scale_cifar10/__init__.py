"""The paper's ablations and baselines in the small, on CIFAR-10; see README.md.

* :mod:`experiments` says what is compared, :mod:`images` holds the images.
* :mod:`training` pretrains and fine-tunes, :mod:`judging` makes the figures.
* :mod:`scheduling` runs them side by side, :mod:`results` keeps the records.
* :mod:`statistics`, :mod:`table` and :mod:`chart` sum them up.
"""

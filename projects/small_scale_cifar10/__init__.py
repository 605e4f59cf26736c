"""SAIM's forms and its rivals in the small, on CIFAR-10; see README.md.

* :mod:`scale` holds the presets. :mod:`experiments` says what is compared after equal
  epochs, :mod:`systems` what is compared at equal compute.
* :mod:`models` writes their configs, :mod:`operations` counts what a step costs,
  :mod:`images` holds the images.
* :mod:`loop` is the one loop, :mod:`training` pretrains and fine-tunes by it,
  :mod:`judging` makes the figures.
* :mod:`tuning` says what a run trains with, :mod:`scheduling` runs them side by side,
  :mod:`results` keeps the records.
* :mod:`statistics`, :mod:`table` and :mod:`chart` sum them up.
"""

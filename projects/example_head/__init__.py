"""An example to copy: a head of one's own in SAIM; see README.md."""

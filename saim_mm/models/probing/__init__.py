"""What probes and classifiers learn of a frozen encoder: pools and heads."""

"""Small tools without any opinion, which every room may use."""

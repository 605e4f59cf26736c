"""Rivals of SAIM that mmpretrain lacks."""

"""Guidance: functions that take denoisers and return one. At neutral strength each is the identity."""

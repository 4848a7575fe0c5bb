"""Rounds of FedAvg whose clients only note when they are called."""

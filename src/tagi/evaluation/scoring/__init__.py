"""Asking methods for answers and scoring these."""

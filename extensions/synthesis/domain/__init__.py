"""Synthesis of chat datasets: the approved plan, its price and its run."""

"""The fault harness: it runs the whole product, injects faults and looks for violated rules."""

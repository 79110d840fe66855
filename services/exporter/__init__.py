"""The exporter, which merges adapters into their base models and writes them in other formats."""

"""Limited processes that analyze, filter and compare the examples of datasets."""

"""Limited processes that write the files of exports, and that push them to a hub."""

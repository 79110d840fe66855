"""Access, errors, limits and paging, which all routes share."""

"""What every route shares: access, errors, limits and paging."""

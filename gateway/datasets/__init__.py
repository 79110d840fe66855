"""Uploads, validation reports and previews of datasets."""

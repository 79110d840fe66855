"""Notices of account holders by e-mail: the address, the chosen kinds, and links in mails."""

"""Extensions outside of the source tree."""

"""The theory: rule tables, and the numbers and predictions that follow from them."""

"""Tables of records: which rows and columns there are, what is best, and how it is printed."""

"""What providers bill: read from their own APIs and compared, day by day, with what was counted here."""

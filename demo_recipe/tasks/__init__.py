"""What the demo model learns: a file for each kind of exchange, with its questions, answers and held-out wordings."""

"""Make the exchanges that the demo model learns. Each module has one kind, with its wordings and its answers."""

"""How fast each kind of action group may move and change, and what it must not cross; one file for each kind."""

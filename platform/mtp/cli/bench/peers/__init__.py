"""Other engines as contestants of `mtp bench decode`, each in an interpreter and a process of its own."""

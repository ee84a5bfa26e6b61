"""How the local engine keeps its processes running."""

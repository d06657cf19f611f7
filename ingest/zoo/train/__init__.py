"""How the embedded models are made: `python -m ingest.zoo.train NAME --out DIR`."""

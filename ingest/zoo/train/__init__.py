"""How the embedded model is made: `python -m ingest.zoo.train --out DIR`."""

"""How the embedded model is made: sources, scenes, training, export, evaluation."""

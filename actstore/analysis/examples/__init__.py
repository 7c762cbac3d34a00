"""Which rows a probe or steering vector is trained on, and which it is tested on."""

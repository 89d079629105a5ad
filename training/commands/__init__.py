"""Commands of taaf-train beside a training; they may put rooms together."""

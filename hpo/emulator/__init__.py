"""From a study to an emulator, and what is told of it."""

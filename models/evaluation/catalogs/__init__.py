"""Where the truth of a catalogue lies in the posterior that an emulator gives."""

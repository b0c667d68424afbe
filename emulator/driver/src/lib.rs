//! The engine of the emulator. Nothing of it exists in this version.

"""One address for everything: what is not ours is handed to the Orthanc behind us, and back."""

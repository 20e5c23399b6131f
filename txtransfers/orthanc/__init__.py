"""An Orthanc as the store: its REST API, what is read through it, and what is imported into it."""

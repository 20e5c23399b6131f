The first release: a daemon that exchanges DICOM studies with Orthanc's transfers accelerator and with itself, by push, pull
and send in pull mode. It reads Orthanc's configuration file; what it does not do it refuses at the start
instead of ignoring it. A transfer shows in the store entirely or not at all, also after a crash. Back up the index together with the files: without it
the daemon does not start, and folders that an older one does not know are put aside.

Hostile input finds less: an answer of a peer whose headers never end, the names of character sets that no DICOM file has, a proxy's status of
5,000 digits, and an Orthanc that tells of half a character or of less than nothing are refused.

`"Store" : { "Type" : "Orthanc", "Url" : ... }` puts the daemon in front of an Orthanc: transfers read its archive through its REST
API and are imported into it, all of a transfer or nothing. An import that a crash cuts off is completed or taken back.

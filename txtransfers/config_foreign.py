"""Orthanc's keys that mean nothing here: those that are refused, and those that are ignored.

What concerns security, or what Orthanc would do and this daemon would not, is refused; the rest
of a complete configuration of Orthanc is ignored, with a notice.
"""

import attrs


@attrs.frozen
class Refused:
    """A key that changes what Orthanc does, and would change nothing here: never ignored.

    :ivar harmless: the values that ask for nothing, Orthanc's default among them.
    :ivar reason: a sentence: what is missing here, and what to do instead.
    """

    name: str
    harmless: tuple[object, ...]
    reason: str


_PKCS11 = "keys in hardware (PKCS#11) are not supported: use CertificateFile, and remove the key"

REFUSED = (
    Refused("Pkcs11", ({}, False), _PKCS11),
    Refused(
        "OrthancPeersInDatabase",
        (False,),
        "peers are read from this file alone: list them under OrthancPeers, and remove the key",
    ),
    Refused(
        "HttpServerEnabled",
        (True,),
        "this daemon is nothing without its HTTP server: stop the daemon, or remove the key",
    ),
    Refused("ReadOnly", (False,), "a read-only mode is not supported: remove the key"),
    Refused(
        "StoreDicom", (True,), "instances are always stored, never only indexed: remove the key"
    ),
    Refused(
        "Authorization",
        ({}, {"Enable": False}),
        "the rules of the authorization plugin would not be applied here: put a proxy that applies "
        "them in front, and remove the section",
    ),
)

PEER_REFUSED = (Refused("Pkcs11", (False,), _PKCS11),)

PLUGINS = "Plugins"
"""Accepted, since a configuration of Orthanc needs it to have transfers; it has its own notice."""

_IGNORED_OF_ORTHANC = """
AcceptedSopClasses AcceptedTransferSyntaxes BuiltinDecoderTranscoderOrder CaseSensitivePN
CheckRevisions DatabaseServerIdentifier DefaultEncoding DefaultPrivateCreator
DeflatedTransferSyntaxAccepted DeidentifyLogs DeidentifyLogsDicomVersion DicomAet
DicomAlwaysAllowEcho DicomAlwaysAllowFind DicomAlwaysAllowFindWorklist DicomAlwaysAllowGet
DicomAlwaysAllowMove DicomAlwaysAllowStore DicomAssociationCloseDelay DicomCheckCalledAet
DicomCheckModalityHost DicomDefaultRetrieveMethod DicomEchoChecksFind
DicomGetScuProposesAcceptedTransferSyntaxes DicomLossyTranscodingQuality DicomModalities
DicomModalitiesInDatabase DicomPort DicomScpTimeout DicomScuPreferredTransferSyntax DicomScuTimeout
DicomServerEnabled DicomThreadsCount DicomTlsCertificate DicomTlsCiphersAccepted DicomTlsEnabled
DicomTlsMinimumProtocolVersion DicomTlsPrivateKey DicomTlsRemoteCertificateRequired
DicomTlsTrustedCertificates Dictionary ExecuteLuaEnabled ExternalDictionaries ExtraMainDicomTags
H265TransferSyntaxAccepted HttpCompressionEnabled HttpDescribeErrors HttpRequestTimeout
HttpThreadsCount HttpVerbose IndexDirectory IngestTranscoding IngestTranscodingOfCompressed
IngestTranscodingOfUncompressed JobsEngineThreadsCount Jpeg2000TransferSyntaxAccepted
JpegLosslessTransferSyntaxAccepted JpegTransferSyntaxAccepted JpipTransferSyntaxAccepted
KeepAliveTimeout LimitFindInstances LimitFindResults LimitJobs LoadPrivateDictionary Locale
LogExportedResources LuaHeartBeatPeriod LuaScripts MallocArenaMax MaximumPatientCount
MaximumPduLength MaximumStorageCacheSize MaximumStorageMode MediaArchiveSize MetricsEnabled
Mpeg2TransferSyntaxAccepted Mpeg4TransferSyntaxAccepted OrthancExplorerEnabled
QueryRetrieveSize RejectedSopClasses RestApiWriteToFileSystemEnabled RleTransferSyntaxAccepted
StableAge StorageAccessOnFind StorageCommitmentReportsSize StorageCompression
StorageLoaderThreadsCount StorageMemoryCapacity StoreMD5ForAttachments StrictAetComparison
SyncStorageArea SynchronousCMove SynchronousZipStream TcpNoDelay TemporaryDirectory
TranscodeDicomProtocol UnknownSopClassAccepted UserContentType UserMetadata Warnings
WebDavDeleteAllowed WebDavEnabled WebDavUploadAllowed ZipLoaderThreads ZipUseUtf8
"""
_IGNORED_OF_PLUGINS = """
AdvancedStorage AwsS3Storage AzureBlobStorage ConnectivityChecks DelayedDeletion DicomWeb Education
Gdcm GoogleCloudPlatform GoogleCloudStorage Housekeeper Indexer Java MongoDB MultitenantDicom MySQL
Neuroimaging OHIF Odbc OrthancExplorer2 PostgreSQL PythonScript PythonVerbose STL Saola ServeFolders
StoneRTViewer StoneWebViewer Tcia VolView WebViewer WholeSlideImaging Worklists
"""
IGNORED = frozenset((_IGNORED_OF_ORTHANC + _IGNORED_OF_PLUGINS).split())
"""Keys of Orthanc itself, and sections of other plugins."""

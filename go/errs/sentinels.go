package errs

// Sentinels. Each comment begins "ErrX is returned when".
var (
	// ErrInternal is returned when something failed that no caller can mend;
	// the service's log has the details.
	ErrInternal = sentinel("CF_INTERNAL", Internal, "internal error")
	// ErrPanic is returned when Go code panicked behind the Python boundary.
	ErrPanic = sentinel("CF_PANIC", Internal, "the native library failed; restart the process")
	// ErrPoisoned is returned when an earlier call panicked.
	ErrPoisoned = sentinel("CF_POISONED", Internal, "the native library failed earlier; restart the process")
	// ErrBadHandle is returned when a handle was closed or never existed.
	ErrBadHandle = sentinel("CF_BAD_HANDLE", Invalid, "the object is closed")
	// ErrArgument is returned when an argument has the wrong form.
	ErrArgument = sentinel("CF_ARGUMENT", Invalid, "invalid argument")
	// ErrConfig is returned when a configuration file or variable is wrong.
	ErrConfig = sentinel("CF_CONFIG", Invalid, "invalid configuration")
	// ErrCancelled is returned when the caller gave up.
	ErrCancelled = sentinel("CF_CANCELLED", Unavailable, "cancelled")
	// ErrTimeout is returned when nothing moved for too long.
	ErrTimeout = sentinel("CF_TIMEOUT", Unavailable, "no progress within the time allowed")
	// ErrUnavailable is returned when a service cannot be reached.
	ErrUnavailable = sentinel("CF_UNAVAILABLE", Unavailable, "service unavailable")

	// ErrParameters is returned when no scheme satisfies the request.
	ErrParameters = sentinel("CF_PARAMETERS", Invalid, "no such parameters")
	// ErrInsecure is returned when the security gate refuses parameters.
	ErrInsecure = sentinel("CF_INSECURE", Invalid, "parameters below 128-bit security")
	// ErrLayout is returned when names, shapes or counts of tensors differ.
	ErrLayout = sentinel("CF_LAYOUT_MISMATCH", Invalid, "the model's layout differs from the task's")
	// ErrModelMismatch is returned when a client holds another model than the
	// round's.
	ErrModelMismatch = sentinel("CF_MODEL_MISMATCH", Conflict, "another model than the round's")
	// ErrNotFinite is returned when an update holds NaN or an infinity.
	ErrNotFinite = sentinel("CF_NOT_FINITE", Invalid, "NaN or infinity in the update")
	// ErrWeight is returned when num_examples is 0, negative or above the cap.
	ErrWeight = sentinel("CF_WEIGHT", Invalid, "num_examples outside the task's limits")
	// ErrArrow is returned when an Arrow array or batch has the wrong type,
	// layout, nulls or length.
	ErrArrow = sentinel("CF_ARROW", Invalid, "unsuitable Arrow data")

	// ErrFrame is returned when bytes are not a canonical frame.
	ErrFrame = sentinel("CF_FRAME", Corrupt, "not a valid frame")
	// ErrFrameContext is returned when a valid frame belongs elsewhere: other
	// preset, encoding, key id, round, chunk.
	ErrFrameContext = sentinel("CF_FRAME_CONTEXT", Invalid, "the frame belongs to another round or place")
	// ErrCanonical is returned when bytes are not the canonical form of an
	// object.
	ErrCanonical = sentinel("CF_CANONICAL", Corrupt, "not canonical bytes")
	// ErrSignature is returned when a signature does not verify.
	ErrSignature = sentinel("CF_SIGNATURE", Corrupt, "signature does not verify")
	// ErrDecrypt is returned when a sum does not open: residual noise above
	// the bound or unused bits set.
	ErrDecrypt = sentinel("CF_DECRYPT", Corrupt, "the sum does not open: wrong key or corrupted bytes")
	// ErrWeightSum is returned when the decrypted weights contradict the spec.
	ErrWeightSum = sentinel("CF_WEIGHT_SUM", Corrupt, "the cohort's weights contradict the specification")
	// ErrTag is returned when a sum is not that of the contributions that the
	// manifest lists: the aggregator changed something.
	ErrTag = sentinel("CF_TAG", Corrupt, "the sum is not that of the listed contributions: the aggregator changed it")

	// ErrVotes is returned when the votes of a round of ranges are not those of
	// honest clients: somebody in the cohort sent numbers that are no vote.
	ErrVotes = sentinel("CF_VOTES", Corrupt, "the cohort's votes on ranges are not those of honest clients")

	// ErrUnauthenticated is returned when no valid client certificate came.
	ErrUnauthenticated = sentinel("CF_UNAUTHENTICATED", Denied, "no valid certificate")
	// ErrDenied is returned when the caller's role may not call the method.
	ErrDenied = sentinel("CF_DENIED", Denied, "not allowed for this role")
	// ErrNotEnrolled is returned when a client is not listed in the task.
	ErrNotEnrolled = sentinel("CF_NOT_ENROLLED", Denied, "not enrolled in this task")
	// ErrCertificate is returned when a certificate is wrong or expired.
	ErrCertificate = sentinel("CF_CERTIFICATE", Denied, "unsuitable certificate")

	// ErrNoTask is returned when no task has the name.
	ErrNoTask = sentinel("CF_NO_TASK", NotFound, "no such task")
	// ErrNoRound is returned when the task has no such round.
	ErrNoRound = sentinel("CF_NO_ROUND", NotFound, "no such round")
	// ErrTaskExists is returned when a task of the name stands already.
	ErrTaskExists = sentinel("CF_TASK_EXISTS", Conflict, "a task has this name already")
	// ErrTaskCreating is returned when a task waits for its first model.
	ErrTaskCreating = sentinel("CF_TASK_CREATING", Conflict, "the task is still being created")
	// ErrTaskEnded is returned when all rounds are done or the task aborted.
	ErrTaskEnded = sentinel("CF_TASK_ENDED", Conflict, "the task has ended")
	// ErrState is returned when a round's state does not allow the step.
	ErrState = sentinel("CF_STATE", Conflict, "the round's state does not allow this")
	// ErrNotInCohort is returned when a client comes after sealing or was left
	// out of the sealed set.
	ErrNotInCohort = sentinel("CF_NOT_IN_COHORT", Conflict, "the round was sealed without this client")
	// ErrAborted is returned when a round ended without a result.
	ErrAborted = sentinel("CF_ROUND_ABORTED", Conflict, "the round was aborted")
	// ErrFailed is returned when most of a round's cohort could not open its sum:
	// the round counts for nobody, and what was contributed to it is spent.
	ErrFailed = sentinel("CF_ROUND_FAILED", Conflict, "the round's sum did not open for most of its cohort and counts for nobody")
	// ErrDiverged is returned when the cohort's majority opened another sum than
	// this client.
	ErrDiverged = sentinel("CF_RESULT_DIVERGED", Corrupt, "the cohort's majority opened another sum")
	// ErrLost is returned when a key service no longer has what it needs to decide
	// a round, and cannot know whether it did.
	ErrLost = sentinel("CF_ROUND_LOST", Conflict, "the key service lost this round's keys; the admin creates a new task")
	// ErrRestored is returned when a key service's ledger is older than what the
	// service signed, or another copy of it is running: it serves no more.
	ErrRestored = sentinel("CF_RESTORED", Conflict, "this key service forgot what it signed, and does not serve")
	// ErrPending is returned when a step has to wait for others; ask again.
	ErrPending = sentinel("CF_PENDING", Unavailable, "not yet; ask again")
	// ErrUpload is returned when an upload is unknown, perhaps because the
	// aggregator restarted: begin again.
	ErrUpload = sentinel("CF_UPLOAD_UNKNOWN", NotFound, "no such upload; begin again")
	// ErrChunkConflict is returned when a chunk comes twice with other bytes.
	ErrChunkConflict = sentinel("CF_CHUNK_CONFLICT", Conflict, "the chunk was already stored with other bytes")
	// ErrChunkOrder is returned when a chunk skips others or lies past the end.
	ErrChunkOrder = sentinel("CF_CHUNK_ORDER", Invalid, "chunk out of order")
	// ErrIncomplete is returned when a commit comes before every chunk.
	ErrIncomplete = sentinel("CF_INCOMPLETE", Conflict, "not every chunk has arrived")
	// ErrRoot is returned when a commit's root differs from the stored chunks.
	ErrRoot = sentinel("CF_ROOT_MISMATCH", Invalid, "root does not match the stored chunks")
	// ErrContribution is returned when a client commits a second, different
	// contribution, or the update changed between sending and resending.
	ErrContribution = sentinel("CF_CONTRIBUTION_CONFLICT", Conflict, "a different contribution of this client stands")
	// ErrDiskFull is returned when storage has no room.
	ErrDiskFull = sentinel("CF_DISK_FULL", Exhausted, "no room left on the storage")
	// ErrLimit is returned when a request exceeds a stated limit.
	ErrLimit = sentinel("CF_LIMIT", Exhausted, "over a stated limit")
	// ErrStorage is returned when stored bytes fail their checksum.
	ErrStorage = sentinel("CF_STORAGE_CORRUPT", Corrupt, "stored bytes fail their checksum")

	// ErrDeposit is returned when a deposit is malformed, repeated too often
	// or missing.
	ErrDeposit = sentinel("CF_DEPOSIT", Invalid, "unsuitable key deposit")
	// ErrManifest is returned when the release gate refuses a manifest.
	ErrManifest = sentinel("CF_MANIFEST_REFUSED", Denied, "the release gate refused the manifest")
	// ErrDecided is returned when the round was already decided otherwise.
	ErrDecided = sentinel("CF_ALREADY_DECIDED", Conflict, "the round was decided otherwise")
	// ErrKeysDestroyed is returned when the round's keys no longer exist.
	ErrKeysDestroyed = sentinel("CF_KEYS_DESTROYED", Conflict, "the round's keys were destroyed")
	// ErrSpec is returned when a specification is not derivable from the task.
	ErrSpec = sentinel("CF_SPEC", Denied, "the specification does not follow from the signed task")
	// ErrAudit is returned when the audit log or a proof does not verify.
	ErrAudit = sentinel("CF_AUDIT", Corrupt, "the audit log does not verify")
)

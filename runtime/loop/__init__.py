"""The lossless draft/target loop: propose → verify → accept → commit, one file a phase."""

"""The acceptance model of the adaptive policy: fitted on traces, proven, packaged."""

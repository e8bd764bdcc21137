"""`cloudhsm_mgmt_util` and `key_mgmt_util`, for scripts and habits of Client SDK 3."""

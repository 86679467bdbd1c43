"""The wire: one port, the XML-RPC and JSON-RPC bindings, and the bridge to the API. Knows no storage."""

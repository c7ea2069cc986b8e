"""How-to pages whose pictures and outputs are made by one command each."""

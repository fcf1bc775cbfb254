"""Register-transfer level: PEs and PE arrays in PyRTL, their simulation, and their Verilog."""

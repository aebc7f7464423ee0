def measure_control(): pass

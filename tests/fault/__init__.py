"""What goes wrong on real machines, done to real runs: kills, stops, full disks, damage, two runs in one folder."""

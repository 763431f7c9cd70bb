"""`hpo prepare`: from tables to a prepared dataset."""

/* Writes n, from 1 to 3999, as a Roman numeral. */
void roman(int n, char *out);

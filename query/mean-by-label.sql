-- Mean vector of each label at one layer, with its norm.
-- param layer int: the layer
-- param site text = resid_post: the site
WITH means AS (
    SELECT model, label, count(*) AS rows, vector_mean(activation) AS mean
    FROM activations
    WHERE layer = $layer::INTEGER AND site = $site::VARCHAR
    GROUP BY model, label
)
SELECT model, label, rows, norm(mean) AS mean_norm, mean
FROM means
ORDER BY model, label

-- Mean vector of each label at one layer, with its norm; each pooling and region by itself.
-- param layer int: the layer
-- param site text = resid_post: the site
WITH means AS (
    SELECT model, pooling, region, label, count(*) AS rows, vector_mean(activation) AS mean
    FROM activations
    WHERE layer = $layer::INTEGER AND site = $site::VARCHAR
    GROUP BY model, pooling, region, label
)
SELECT model, pooling, region, label, rows, norm(mean) AS mean_norm, mean
FROM means
ORDER BY model, pooling, region, label
